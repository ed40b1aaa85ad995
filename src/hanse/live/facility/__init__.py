"""A site's plant: what its agent reads from meters, BMCs, PDUs, UPSes and building systems, and the grid's orders it follows.

| file | one job |
|---|---|
| `readings` | what a driver is and gives |
| `redfish`, `snmp`, `modbus` (`sunspec`), `nvml`, `dcgm`, `mqtt`, `openadr` | one protocol each |
| `flex` (`flex_messages`, `flex_state`, `jws`) | grid load targets in, feed state and breaches out, over MQTT |
| `web`, `access` | HTTP with timeouts and pinned certificates; secrets and keys of devices |
| `metering` | readings become what the site draws, with method and error |
| `keeper` | all of it running beside the agent's other duties |
| `inventory` | the fleet as objects of NetBox |

Imported by the agent alone, and only where the fleet file has a `[[facility]]`; third-party libraries are imported by the driver that
needs them, so that a site without one needs none (`pip install 'hanse[facility]'`).
"""
