"""The local propeller: runs a task through an agent service, the way FlytePropeller would."""
