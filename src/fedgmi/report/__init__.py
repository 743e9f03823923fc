"""What people see of results: tables, pictures and sentences, made from records alone."""
