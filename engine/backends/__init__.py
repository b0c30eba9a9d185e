"""Backends: the implementations of `engine.contract.Engine`, one file or folder each.

- `local`: transformers on this machine.
- `endpoint/`: an OpenAI-compatible or TGI server.

A new backend is a subclass of `Engine` in a new file here. It has to implement `stream`, for which
`dispatch.py` has the loop, and implements those of the optional methods (`Capability`) that it can. The
option `backend` (`engine/options.py`) selects it; `HuggingAdapter.load` (`adapters/hugging.py`) creates it.
"""
