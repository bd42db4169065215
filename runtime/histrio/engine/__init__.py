"""The pure core: sequences, blocks and scheduling. Imports neither anyio nor zmq nor the clock."""
