"""The recipe: everything that decides a build, section by section."""
