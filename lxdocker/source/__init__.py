"""Where images come from: registries, layouts and archives, the logins for them; hostile until parsed."""
