"""Backends: the implementations of `engine.contract.Engine`, one file or folder each.

- `local`: transformers on this machine.
- `endpoint/`: an OpenAI-compatible or TGI server.
- `vllm/`: vLLM, started here and asked as a server.

A new backend is a subclass of `Engine` in a new file here. It has to implement `stream`, for which
`dispatch.py` has the loop, and implements those of the optional methods (`Capability`) that it can. Besides:

- `engine/options/adapter.py`: a value of the option `backend`.
- `adapters/hugging.py`: a case in `HuggingAdapter.load`, which creates it.
- Only for options of its own: a class in `engine/options/`, an entry in `KINDS` and a field of
  `Configuration` in `engine/configuration.py`, and a title in `SECTIONS` of `tests/helpers/docs.py`.
"""
