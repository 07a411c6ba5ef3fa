"""Where the network, the disk and other processes begin."""
