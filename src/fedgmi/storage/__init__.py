"""What a results folder holds, and how it is written: a crash leaves no file half written."""
