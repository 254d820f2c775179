"""The manifests that `meshctl demo` posts.

Owns:   their text, as a user would have it in files.
"""

# The objects that the demo is about, as a team would already have them: Istio v1alpha3, nothing of ours in them.
SERVICE = """\
apiVersion: v1
kind: Service
metadata:
  name: user-service
spec:
  selector:
    app: user-service
  ports:
    - protocol: TCP
      port: 80
      targetPort: 3001
  type: ClusterIP
"""
DESTINATION_RULE = """\
apiVersion: networking.istio.io/v1alpha3
kind: DestinationRule
metadata:
  name: user-service
spec:
  host: user-service
  trafficPolicy:
    tls:
      mode: ISTIO_MUTUAL
    outlierDetection:
      consecutive5xxErrors: 5
      interval: 30s
      baseEjectionTime: 30s
"""
VIRTUAL_SERVICE = """\
apiVersion: networking.istio.io/v1alpha3
kind: VirtualService
metadata:
  name: user-service
spec:
  hosts:
  - user-service
  http:
  - route:
    - destination:
        host: user-service
        subset: v1
      weight: 90
    - destination:
        host: user-service
        subset: v2
      weight: 10
"""
SUBSETS = """\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata:
  name: user-service-versions
spec:
  host: user-service
  subsets:
  - name: v1
    labels: {version: v1}
  - name: v2
    labels: {version: v2}
"""
STRICT = """\
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata:
  name: default
spec:
  mtls:
    mode: STRICT
"""
BREAKER = """\
apiVersion: gossamer.mesh/v1
kind: CircuitBreaker
metadata:
  name: order-service
spec:
  target:
    host: order-service
  requestVolume: 10
  errorPercent: 50
  sleepWindow: 2s
  fallback:
    response:
      headers: {content-type: application/json}
      body:
        string: '{"orders": [], "from": "the fallback"}'
"""
# Passes admission, but our agents connect to nobody whom they cannot verify: they refuse the cluster.
UNVERIFIED = """\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata:
  name: order-service
spec:
  host: order-service
  trafficPolicy:
    tls:
      mode: SIMPLE
      insecureSkipVerify: true
"""
