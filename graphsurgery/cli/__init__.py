"""The command line: parse, one library call, print. Nothing heavy is imported before a verb is chosen."""
