"""Two peers understand each other: identity, wire, cards, bargaining, paying. Knows no ledger."""
