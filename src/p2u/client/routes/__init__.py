"""Routes: the updates that lead from the state at hand to the state that is wanted."""
