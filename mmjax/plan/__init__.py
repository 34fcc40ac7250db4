"""What a recipe costs on devices that are not here."""
