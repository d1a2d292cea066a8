"""A plugin of lsqctl: nothing is imported from here before a recipe names it."""
