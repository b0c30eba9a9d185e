"""Every way in and out: translation only. Imports nothing, so that each door pays for itself alone."""
