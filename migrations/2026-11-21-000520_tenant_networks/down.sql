DROP TABLE tenant_networks;
