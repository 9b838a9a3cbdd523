"""What resources of any stack must be like, looked at before they are created."""
