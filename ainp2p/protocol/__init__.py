"""Two peers understand each other: identity, wire, cards, bargaining, paying. Learns nothing of the ledger."""
