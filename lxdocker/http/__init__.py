"""Requests on the wire: connections, deadlines, proxies, trusted authorities, and the route a builder takes."""
