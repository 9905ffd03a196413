//! Git repositories: mirrors, trees, checkouts, and what wakes the planner.
