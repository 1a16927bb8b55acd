"""Our encoders as other toolkits want them: HEAR, s3prl, X-ARES."""
