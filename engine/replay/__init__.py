"""Forward passes of few tokens as recorded operations, replayed without the model's Python code.

- `recorder`: the operations of one pass, as torch's dispatcher sees them
- `graph`: two such recordings as a graph for any number of tokens; `rewriting` simplifies it
- `code`: a graph as one Python function
- `step`: records a model's pass, tries it against the model, and runs it in its place
"""
