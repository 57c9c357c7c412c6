"""Tags on their way to other machines and from them, with the papers that they carry."""
