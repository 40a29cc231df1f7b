"""The routes of the service, a module for each family: each has the shapes, and the errors, of the clients that use it."""
