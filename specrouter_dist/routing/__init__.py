"""Measuring and deciding: how fast members are, how often they agree, which chain that makes."""
