"""`predict` of a batch file of OpenAI's: requests in, the lines of its output and error files out."""
