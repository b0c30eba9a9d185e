"""Every way in and out of a model: translation only. Imports nothing by itself."""
