"""The routes of the service, one module for each family of clients, with the bodies and errors that these clients expect."""
