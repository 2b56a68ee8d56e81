"""From a graph to a plan: what one kernel takes along, and where each value lies."""
