"""Feature dashboards: what every latent of a sparse autoencoder is active on, and what it goes together with."""
