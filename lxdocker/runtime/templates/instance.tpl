entrypoint={{ config_get("user.lxdocker.entrypoint", "")|urlencode }}
cmd={{ config_get("user.lxdocker.cmd", "")|urlencode }}
restart={{ config_get("user.lxdocker.restart", "")|urlencode }}
restart_unhealthy={{ config_get("user.lxdocker.restart_unhealthy", "")|urlencode }}
stop_grace={{ config_get("user.lxdocker.stop_grace", "")|urlencode }}
prelaunch={{ config_get("user.lxdocker.prelaunch", "")|urlencode }}
network={{ config_get("user.lxdocker.network", "")|urlencode }}
dns={{ config_get("user.lxdocker.dns", "")|urlencode }}
