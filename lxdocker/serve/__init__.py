"""The server that gives the published tree to other hosts.

- ``files``: a request's path -> an open file of the tree, and nothing else
- ``packed``: documents as gzip
- ``access``: who may read, if not everybody
- ``site``: a request -> its answer
- ``metrics``: what Prometheus is told
- ``worker``: a thread, its connections and their time limits
- ``server``: sockets, the certificate, the end
- ``joining``: what to type on another host
"""
