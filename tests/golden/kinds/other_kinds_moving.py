raise RuntimeError("no disk to move things on")
