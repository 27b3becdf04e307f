"""Stand-ins for the services that connectors talk to: started on this machine, for this kernel, with no account."""
