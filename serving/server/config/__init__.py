"""What a server is told: models, versions, policies; and its errors."""
