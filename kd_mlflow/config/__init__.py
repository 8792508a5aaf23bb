"""What can be chosen: rules, recipes, options, and which entry point takes which."""
