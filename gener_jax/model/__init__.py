"""The decoder: attention, sharding and the layers."""
