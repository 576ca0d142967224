"""Telling the house: message schema, announcement policy, Home Assistant discovery, MQTT client."""
