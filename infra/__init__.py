"""Components of the Kubernetes side, for stacks to put together. There is no stack in here."""
