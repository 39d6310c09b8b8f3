"""Who does what for whom, at what price: agents, skills, policy, models."""
