"""A validator on a network: its questions and answers, pushing, catching up, fairness."""
