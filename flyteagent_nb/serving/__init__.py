"""The agent service: the agents of this process behind real gRPC servers."""
