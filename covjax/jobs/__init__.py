"""What runs need and mathematics never sees: folders, seals, full disks, signals. Standard library alone."""
