"""The element of x-forwarded-client-cert."""

from agent.filters.client_certificate import element, subject_name


def test_an_element_of_the_mesh() -> None:
    assert element("spiffe://td/ns/x/sa/b", "ab12", (), {"spiffe://td/ns/x/sa/a"}, ()) == (
        b'By=spiffe://td/ns/x/sa/b;Hash=ab12;Subject="";URI=spiffe://td/ns/x/sa/a'
    )


def test_all_names_in_a_fixed_order() -> None:
    said = element(
        "", "ab", ((("commonName", 'a"b'),),), {"spiffe://td/z", "spiffe://td/a"}, {"b.example", "a.example"}
    )
    assert said == (b'Hash=ab;Subject="CN=a\\\\\\"b";URI=spiffe://td/a;URI=spiffe://td/z;DNS=a.example;DNS=b.example')


def test_the_key_of_a_missing_uri_is_there() -> None:
    assert element("", "ab", (), (), ()) == b'Hash=ab;Subject="";URI='


def test_a_subject_is_written_from_its_last_part() -> None:
    subject = ((("countryName", "DE"),), (("organizationName", "A, B"), ("localityName", "C")), (("other", "x\r\ny"),))
    assert subject_name(subject) == "other=x??y,O=A\\, B+L=C,C=DE"
