"""Who owns what: accounts, locks, votes, certificates (docs/ledger.md)."""
