"""What a model is: reading the headers of its files, finding the files, fetching them."""
