"""The only place that talks to Ray: placing, starting, finding and restarting workers.

Ray is the control plane. Tokens travel on our own links.
"""
