"""From a plan to calls: algorithms by measurement, weights in their order, arguments on memory."""
