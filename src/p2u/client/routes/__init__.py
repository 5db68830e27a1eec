"""Routes: which updates lead from the state at hand to the state that is wanted."""
