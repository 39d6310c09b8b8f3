"""The committee's clients: wallets, watchtowers, proofs and bundles that need nobody's word."""
