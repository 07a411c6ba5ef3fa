"""Files of many kinds to sections of text. Runs in a child process: parsers crash, hang and eat memory."""
