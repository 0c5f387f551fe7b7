"""Budgets over time: checks for scripts, the forecast, the git repository, the tasks of the team."""
