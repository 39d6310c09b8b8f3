"""A seeded adversary over the ledger's production cores: no trio, no sockets, all messages in its hands.

`make adversary SEEDS=200000`, or `python -m tests.adversary --help`. A run is its seed:

    world      validators as the shell runs them, on disks that lose what was not synced, in virtual time
    people     honest owners, owners that sign twice, payers, payees, guardians, strangers
    exodus     members that give their seats up by waivers, and come back with bonds
    faults     what networks, clocks, disks and power do
    byzantine  validators, below a third of the weight, that do whatever they like
    auditor    an independent reading of LEDGER.md (with `book`, `closings`, `seats`) that judges votes,
               certificates, balances and committees
    mutants    one-line faults in the cores; each must be caught by the check that is meant for it
"""
