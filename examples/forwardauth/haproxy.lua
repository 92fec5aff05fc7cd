-- Asks about a request and puts the JWT in place of the opaque token. See
-- haproxy.cfg. HAProxy goes on after an error in this code, so the request
-- passes only if txn.phantom_ok was set, as the last thing.

local service = "http://127.0.0.1:9090"
local timeout = 10000 -- ms; more than the service gives its own question

-- What a refusal hands on to the client.
local fields = { "www-authenticate", "retry-after", "cache-control", "content-type" }
local statuses = { [400] = true, [401] = true, [403] = true, [502] = true, [503] = true }

core.register_action("phantom", { "http-req" }, function(txn, question)
    local values = {}
    local sent = txn.http:req_get_headers()["authorization"]
    for i = 0, 9 do
        if sent and sent[i] then
            values[#values + 1] = sent[i]
        end
    end
    local answer = core.httpclient():get {
        url = service .. question,
        headers = { ["host"] = { "phantom" }, ["authorization"] = values },
        timeout = timeout,
    }

    local jwt = answer.headers and answer.headers["authorization"]
    if answer.status == 200 and jwt and not jwt[1] and jwt[0]:match("^Bearer eyJ[%w_-]+%.[%w_-]+%.[%w_-]+$") then
        txn.http:req_set_header("authorization", jwt[0])
        txn:set_var("txn.phantom_ok", true)
        return
    end

    local reply = txn:reply()
    reply:set_status(statuses[answer.status] and answer.status or 502)
    if statuses[answer.status] then
        for _, name in ipairs(fields) do
            local given = answer.headers and answer.headers[name]
            for i = 0, 9 do
                if given and given[i] then
                    reply:add_header(name, given[i])
                end
            end
        end
        reply:set_body(answer.body or "")
    end
    txn:done(reply)
end, 1)
